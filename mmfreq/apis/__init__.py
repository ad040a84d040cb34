"""A model with its weights, image size and classes (`loading`), and predictions of it (`inference`)."""
