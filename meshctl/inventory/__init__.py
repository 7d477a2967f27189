"""``inventory.yaml``: which hosts, how to reach them, what runs there, who calls whom."""
