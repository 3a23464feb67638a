"""The policy as C99 for small processors: one function, no heap, no state, no dependencies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tskd_ray.export.description import Description
from tskd_ray.export.layers import constants, layers
from tskd_ray.models.policy import Policy
from tskd_ray.types import Float32Array

HEADER, SOURCE = "policy.h", "policy.c"

_HEADER = """\
/* A policy by tskd_ray: an observation in raw units to an action within its bounds.
{about}
 *
 * C99. Reads nothing but its arguments and constants, allocates nothing, keeps no state, so it
 * may be called from several threads and interrupts. Stack: about {stack} bytes. Constants:
 * {constants} bytes. Of the C library it calls tanhf alone (link with -lm). With
 * -ffp-contract=off, and one tanhf, results are the same bits at every optimisation level.
 * A NaN in the observation gives NaN actions: check sensors before.
 */
#ifndef TSKD_POLICY_H
#define TSKD_POLICY_H

#define TSKD_OBSERVATION_DIM {inputs}
#define TSKD_ACTION_DIM {outputs}

#ifdef __cplusplus
extern "C" {{
#endif

{signature};

#ifdef __cplusplus
}}
#endif

#endif
"""

_SIGNATURE = """\
void tskd_policy(const float observation[TSKD_OBSERVATION_DIM],
                 float action[TSKD_ACTION_DIM])"""

_LAYER = """\
/* y = bias + x weight, added up in the order of the inputs. */
static void layer(const float *restrict x, int inputs, const float *restrict weight,
                  const float *restrict bias, int outputs, float *restrict y)
{
    int i, o;
    for (o = 0; o < outputs; o++) {
        y[o] = bias[o];
    }
    for (i = 0; i < inputs; i++) {
        const float value = x[i];
        for (o = 0; o < outputs; o++) {
            y[o] += value * weight[i * outputs + o];
        }
    }
}
"""

_RECTIFY = """\
static void rectify(float *y, int outputs)
{
    int o;
    for (o = 0; o < outputs; o++) {
        if (y[o] < 0.0f) {
            y[o] = 0.0f;
        }
    }
}
"""

_FINISH = """\
    for (i = 0; i < TSKD_ACTION_DIM; i++) {{
        float value = tanhf({last}[i]) * half[i] + centre[i];
        if (value < low[i]) {{
            value = low[i];
        }}
        if (value > high[i]) {{
            value = high[i];
        }}
        action[i] = value;
    }}
}}
"""


def c_files(policy: Policy, description: Description) -> dict[str, bytes]:
    """`policy.h` and `policy.c`, the same bytes every time."""
    arrays = dict(constants(policy))
    for number, (weight, bias) in enumerate(layers(policy)):
        arrays |= {f"weight{number}": weight, f"bias{number}": bias}
    header = _HEADER.format(
        about="\n".join(f" * {name}: {value}" for name, value in description.items().items()),
        stack=4 * 2 * max(policy.network.widths),
        constants=sum(array.nbytes for array in arrays.values()),
        inputs=policy.network.widths[0],
        outputs=policy.network.widths[-1],
        signature=_SIGNATURE,
    )
    return {HEADER: header.encode("ascii"), SOURCE: _source(policy, arrays).encode("ascii")}


def _source(policy: Policy, arrays: Mapping[str, Float32Array]) -> str:
    widths = policy.network.widths
    depth = len(widths) - 1
    parts = [f'#include "{HEADER}"\n\n#include <math.h>\n']
    parts += [_array(name, array) for name, array in arrays.items()]
    parts += [_LAYER, *([_RECTIFY] if depth > 1 else [])]
    parts += ["", _SIGNATURE, "{"]
    parts += [f"    float a[{max(widths)}], b[{max(widths)}];", "    int i;"]
    parts += ["    for (i = 0; i < TSKD_OBSERVATION_DIM; i++) {"]
    parts += ["        a[i] = (observation[i] - mean[i] - mean_rest[i]) / std[i];", "    }"]
    here, there = "a", "b"
    for number in range(depth):
        inputs, outputs = widths[number], widths[number + 1]
        parts.append(
            f"    layer({here}, {inputs}, weight{number}, bias{number}, {outputs}, {there});"
        )
        if number < depth - 1:
            parts.append(f"    rectify({there}, {outputs});")
        here, there = there, here
    return "\n".join([*parts, _FINISH.format(last=here)])


def _array(name: str, values: Float32Array) -> str:
    numbers = [_literal(value) for value in values.reshape(-1)]
    rows = ",\n    ".join(", ".join(numbers[at : at + 4]) for at in range(0, len(numbers), 4))
    return f"static const float {name}[{values.size}] = {{\n    {rows}\n}};\n"


def _literal(value: np.float32) -> str:
    """A hexadecimal float of C99: the number itself, whatever reads it."""
    mantissa, exponent = float(value).hex().split("p")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}p{exponent}f"
