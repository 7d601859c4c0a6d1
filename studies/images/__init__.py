"""Applies the study's protocol to the user's image data sets, for a network or a linear probe.

    python -m studies images cifar100 --data DIR --model resnet50.a1_in1k --pretrained
    python -m studies images inat21 --data DIR --model vit_small_patch14_dinov2.lvd142m \
        --pretrained --probe
"""
