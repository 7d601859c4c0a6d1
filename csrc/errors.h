// Checks that raise another type than RuntimeError in Python. The type travels as a tag before the
// message, because torch's stable ABI carries nothing but text; target_errors.py reads the tag.
#pragma once

#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/Exception.h>

#define HACE_CHECK_INDEX(condition, ...) STD_TORCH_CHECK(condition, "[IndexError] ", __VA_ARGS__)
#define HACE_CHECK_TYPE(condition, ...) STD_TORCH_CHECK(condition, "[TypeError] ", __VA_ARGS__)
#define HACE_CHECK_VALUE(condition, ...) STD_TORCH_CHECK(condition, "[ValueError] ", __VA_ARGS__)
