"""What a number means: scores, ranks by counting, metrics and the callback that reports them."""
