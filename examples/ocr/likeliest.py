"""The recognition model's answer, 6,625 chances for each place of a line, as the likeliest character of each place."""

from __future__ import annotations

import msgspec

from pdserver.handlers.base import Arrays, BaseHandler
from pdserver.types import Interface


class Likeliest(BaseHandler):
    """`numbers` int32 [lines, places] and their `chances` float32 [lines, places]: 3,000 times smaller."""

    def interface(self) -> Interface:
        model = super().interface()
        output = model.outputs[0]
        shape = output.shape[:-1]
        outputs = [
            msgspec.structs.replace(output, name="numbers", dtype="int32", shape=shape),
            msgspec.structs.replace(output, name="chances", shape=shape),
        ]
        return msgspec.structs.replace(model, outputs=outputs)

    def handle_tensors(self, inputs: Arrays) -> Arrays:
        [found] = self.inference(inputs).values()
        return {"numbers": found.argmax(axis=2).astype("int32"), "chances": found.max(axis=2)}
