"""What there is to know of a model without running it: parameters, operations, figures."""
