"""How the native parts are compiled: setup.py hands over to `command.BuildNative`.

`settings` reads the environment, `cpp` and `cuda` choose compilers and flags, `plan` lists what is
compiled from what, `ninja_build` writes that down for ninja and runs it.
"""
