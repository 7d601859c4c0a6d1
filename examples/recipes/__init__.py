"""Programs of one file each, which show how the losses go with other libraries.

Each runs by itself, as `python -m examples.recipes.timm_finetuning`, on made-up data of `data.py`.
"""
