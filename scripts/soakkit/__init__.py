"""The soak: does anything grow in proxies that run for long, with traffic that never repeats?

Two real proxies, a real registry, an application and callers that do whatever is allowed to be
different from one request to the next. ``mesh`` starts them, ``application`` and ``callers`` are
the two ends, ``churn`` has endpoints come and go, ``watch`` looks at the proxies, ``verdict``
judges what was seen, ``command`` is the command line.
"""
