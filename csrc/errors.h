// Checks whose failure is more than a RuntimeError for Python's users: the kind travels as a tag
// before the message, for torch's stable ABI carries no more than text (target_errors.py has the
// other end).
#pragma once

#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/Exception.h>

#define HACE_CHECK_INDEX(condition, ...) STD_TORCH_CHECK(condition, "[IndexError] ", __VA_ARGS__)
#define HACE_CHECK_TYPE(condition, ...) STD_TORCH_CHECK(condition, "[TypeError] ", __VA_ARGS__)
#define HACE_CHECK_VALUE(condition, ...) STD_TORCH_CHECK(condition, "[ValueError] ", __VA_ARGS__)
