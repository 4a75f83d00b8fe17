"""`ts.protocol.otf_message_handler`."""

from ..handler_utils.utils import send_intermediate_predict_response as send_intermediate_predict_response
