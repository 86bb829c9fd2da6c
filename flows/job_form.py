"""A job as a parameter of a flow: Prefect shows a form for it, and refuses what is no job."""

from __future__ import annotations

from typing import Annotated

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from ad_lib.presets import PRESETS
from manifests.items import EXTERNAL
from manifests.job import Job


class _KnownTasks:
    """Offers the tasks that there are: `manifests` knows none of their names."""

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        task = handler.resolve_ref_schema(schema)["properties"]["task"]
        task["enum"] = sorted(PRESETS.keys() - {EXTERNAL})
        return schema


JobForm = Annotated[Job, _KnownTasks()]
