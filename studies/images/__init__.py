"""Data sets of images that the user has: the study's protocol for a network or a probe.

    python -m studies images cifar100 --data DIR --model resnet50.a1_in1k --pretrained
    python -m studies images inat21 --data DIR --model vit_small_patch14_dinov2.lvd142m \
        --pretrained --probe
"""
