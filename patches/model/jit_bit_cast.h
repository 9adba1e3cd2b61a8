// SPDX-License-Identifier: Apache-2.0
// std::bit_cast where the standard library lacks it (libstdc++ before 11, libc++ before 14).
//
// Included before everything else in a build of SGLang's JIT. A library that has the function says
// so by its feature-test macro, and then this header adds nothing.
#pragma once

#include <bit>
#include <version>

#if !defined(__cpp_lib_bit_cast)

#include <cstring>
#include <type_traits>

#if defined(__CUDACC__)
#define SGLANG_GEMMA4_EXT_ANYWHERE __host__ __device__
#else
#define SGLANG_GEMMA4_EXT_ANYWHERE
#endif

namespace std {

// As in C++20, but for constexpr: that needs a builtin which such a compiler may not have either.
template <typename To, typename From>
SGLANG_GEMMA4_EXT_ANYWHERE inline enable_if_t<
    sizeof(To) == sizeof(From) && is_trivially_copyable<To>::value &&
        is_trivially_copyable<From>::value && is_trivially_default_constructible<To>::value,
    To>
bit_cast(const From& from) noexcept {
  To to;
  // By a C cast: From may be a __restrict__ pointer, a qualifier that no C++ cast takes away.
  memcpy(&to, (const void*)&from, sizeof(To));
  return to;
}

}  // namespace std

#undef SGLANG_GEMMA4_EXT_ANYWHERE

#endif
