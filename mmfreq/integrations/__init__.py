"""mmfreq models in other libraries; `import mmfreq.integrations.timm` registers them with timm."""
