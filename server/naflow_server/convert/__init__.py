"""The only translation between protobuf messages and the engine's types."""

from naflow_server.convert.banks import append_arguments, append_response, bank_status
from naflow_server.convert.events import Answer
from naflow_server.convert.models import model_report, model_status
from naflow_server.convert.requests import (
    LONGEST_ID,
    checked_id,
    explain_request,
    shapes,
    upload_data,
    upload_start,
)
from naflow_server.convert.tables import refuse

__all__ = [
    "LONGEST_ID",
    "Answer",
    "append_arguments",
    "append_response",
    "bank_status",
    "checked_id",
    "explain_request",
    "model_report",
    "model_status",
    "refuse",
    "shapes",
    "upload_data",
    "upload_start",
]
