"""Models for OpenMMLab; import the submodule you need, or use `mmfreq.build_backbone`.

| module | contents |
|---|---|
| `hornet`, `gfnet`, `dfformer`, `affnet` | one family each: table of archs, blocks from small to large, backbone, classifier |
| `_base`, `_factory` | base classes and shared parts of the families; models by the name of their arch |
| `conv_layer` | gnConv in decoders: `GnConvModule`, `conv_cfg=dict(type='mmfreq.GnConv')` |
| `necks`, `seg_heads`, `det_heads`, `ssdlite` | `GnFPN`; `GnUPerHead`, `GnFPNHead`, `AFFNetASPPHead`; `RPNHead`; AFFNet's SSDLite |
| `image_classifier` | a published classifier as a model of mmpretrain |
"""
