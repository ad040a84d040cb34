"""Our models in other libraries: `import mmfreq.integrations.timm`."""
