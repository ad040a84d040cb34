"""Models that speak OpenMMLab; import the submodule you need."""
