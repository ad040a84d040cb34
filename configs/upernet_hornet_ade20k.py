# The headline config, UPerNet + HorNet-Tiny (GF) on ADE20K: tools/dist_train.sh configs/upernet_hornet_ade20k.py 8
# The row of the model zoo is that of its base. It starts from the published ImageNet weights; --from-scratch starts without them.
_base_ = 'seg/hornet/hornet-tiny-gf_upernet_8xb2-160k_ade20k-512x512.py'
