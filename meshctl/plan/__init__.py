"""Desired x observed -> a plan, a value: what is shown is the very object that is applied.

``model`` is the vocabulary, ``build`` makes a plan of facts, ``document`` and ``view`` show one.
"""
