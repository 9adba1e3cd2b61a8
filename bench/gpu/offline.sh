#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Install what bench.gpu.carry packed into .kit, once a machine, and run what is left of the queue:
#
#   bash bench/gpu/offline.sh --for-s 540 --copy-to "$OUT"
set -euo pipefail
cd "$(dirname "$0")/../.."
# A copy of the tree may have lost its two links.
for folder in kernels patches; do
    [ -e "sglang_gemma4_ext/$folder" ] || ln -sfn "../$folder" "sglang_gemma4_ext/$folder"
done
site=${SITE:-${TMPDIR:-/tmp}/gemma4_ext_site}
if [ ! -f "$site/.complete" ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .kit/*.whl
    touch "$site/.complete"
fi
export PYTHONPATH=$site:$PWD
# ninja lies beside the interpreter; nvcc and the CUDA headers of torch's own wheels serve the JIT.
PATH=$(dirname "$(python3 -c 'import sys; print(sys.executable)')"):$PATH
CUDA_HOME=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)")")")
CPATH=$(python3 -c 'import nvidia, os; print(os.path.join(list(nvidia.__path__)[0], "cu13", "include"))' || true)
export PATH CUDA_HOME CPATH
# The carried sglang-kernel is older than SGLang asks for; every name that Gemma 4 uses is in it.
export SGLANG_SKIP_SGL_KERNEL_VERSION_CHECK=1 SGLANG_IS_FLASHINFER_AVAILABLE=false
export SGLANG_JIT_CACHE_DIR=${TMPDIR:-/tmp}/sglang_jit
exec python3 -m bench.gpu --out build/gpu "$@"
