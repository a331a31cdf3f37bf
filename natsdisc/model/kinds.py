"""Every kind of spec and of instance, as one type each."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from .channels import EventChannelInstance, EventChannelSpec, EventSourceInstance, EventSourceSpec
from .instances import EndpointInstance, EndpointSpec, ModelInstance, ModelSpec

__all__ = ["Instance", "InstanceT_co", "Spec"]


Spec: TypeAlias = EndpointSpec | ModelSpec | EventChannelSpec | EventSourceSpec


Instance: TypeAlias = EndpointInstance | ModelInstance | EventChannelInstance | EventSourceInstance


# The kind of instance in an event, a watch or a view. Without one, `Added` means `Added[Instance]`.
if TYPE_CHECKING:
    from typing_extensions import TypeVar

    InstanceT_co = TypeVar("InstanceT_co", bound=Instance, covariant=True, default=Instance)
else:
    from typing import TypeVar

    InstanceT_co = TypeVar("InstanceT_co", bound=Instance, covariant=True)
