"""The vocabulary that the proxy and the operator's side share: values, no I/O."""
