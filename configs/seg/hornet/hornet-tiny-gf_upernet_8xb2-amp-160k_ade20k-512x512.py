# hornet-tiny-gf_upernet_8xb2-160k_ade20k-512x512 with mixed precision. Our own variant; there is no published score.
_base_ = './hornet-tiny-gf_upernet_8xb2-160k_ade20k-512x512.py'
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')
