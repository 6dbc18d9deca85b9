"""The typed search attributes: their names and types, in one place."""

from temporalio.common import SearchAttributeKey

PHASE = SearchAttributeKey.for_keyword("PodctlPhase")
GPU_POD = SearchAttributeKey.for_keyword_list("PodctlGpuPod")
MODEL = SearchAttributeKey.for_keyword_list("PodctlModel")
STATE = SearchAttributeKey.for_keyword("PodctlState")
NEEDS_APPROVAL = SearchAttributeKey.for_bool("PodctlNeedsApproval")
INBOX = SearchAttributeKey.for_keyword_list("PodctlInbox")

#: What a namespace needs before a worker starts: a workflow task that sets an unregistered one fails again and again.
SEARCH_ATTRIBUTES = (PHASE, GPU_POD, MODEL, STATE, NEEDS_APPROVAL, INBOX)
