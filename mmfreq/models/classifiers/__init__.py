"""The published ImageNet classifiers: a backbone's trunk with the published norm and head."""
