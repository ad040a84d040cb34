# The headline config, UPerNet + HorNet-Tiny (GF) on ADE20K (49.2 mIoU): tools/dist_train.sh configs/upernet_hornet_ade20k.py 8
_base_ = 'seg/hornet/hornet-tiny-gf_upernet_8xb2-160k_ade20k-512x512.py'
