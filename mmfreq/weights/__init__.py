"""Published weights: rename tables (`rules`), fitting a state dict to a model (`fit`), loading and its report (`load`)."""
