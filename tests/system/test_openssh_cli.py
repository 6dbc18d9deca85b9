"""`podctl pods | start | stop | list | logs` behind a real OpenSSH sshd: the tests that the simulator passes."""

from tests.system.sshd import simulated
from tests.workflow.cli.conftest import gpu_pod, podctl, podctl_without_worker, working
from tests.workflow.cli.test_cli_connect import (
    coder,
    test_a_streamed_answer_comes_through_the_tunnel,
    test_connections_that_are_lost_are_made_anew,
)
from tests.workflow.cli.test_cli_pods import (
    test_a_changed_host_key_is_refused_until_a_person_accepts_it,
    test_a_pod_is_added_shown_and_removed,
    test_first_contact_shows_the_fingerprint_and_trusts_nobody,
)
from tests.workflow.cli.test_cli_runs import (
    test_a_command_asks_the_model_that_it_is_given,
    test_a_long_log_arrives_whole,
)
from tests.workflow.cli.test_cli_servers import (
    test_a_followed_log_goes_on_at_the_byte_where_the_connection_was_lost,
    test_a_model_server_is_started_listed_read_and_stopped,
    test_a_start_that_fails_says_why_and_what_to_try,
    test_an_unreachable_pod_says_since_when_and_what_is_kept,
    test_ctrl_c_leaves_what_was_asked_for_and_says_how_to_look_again,
    test_the_output_of_a_workstream_is_read_where_it_ran,
)
from tests.workflow.cli.test_cli_shell import (
    test_a_command_at_a_terminal_gets_ctrl_c,
    test_a_second_ctrl_c_leaves_the_command,
    test_a_shell_has_the_terminal_its_keys_and_its_size,
    test_the_terminal_is_put_back_when_the_connection_is_lost,
)
from tests.workflow.conftest import _workers_end_at_once, machine, pool

# pytest takes fixtures and tests from the names of a module; ``simulated`` makes them use the machine with sshd.
__all__ = [
    "_workers_end_at_once",
    "coder",
    "gpu_pod",
    "machine",
    "podctl",
    "podctl_without_worker",
    "pool",
    "simulated",
    "test_a_changed_host_key_is_refused_until_a_person_accepts_it",
    "test_a_command_asks_the_model_that_it_is_given",
    "test_a_command_at_a_terminal_gets_ctrl_c",
    "test_a_followed_log_goes_on_at_the_byte_where_the_connection_was_lost",
    "test_a_long_log_arrives_whole",
    "test_a_model_server_is_started_listed_read_and_stopped",
    "test_a_pod_is_added_shown_and_removed",
    "test_a_second_ctrl_c_leaves_the_command",
    "test_a_shell_has_the_terminal_its_keys_and_its_size",
    "test_a_start_that_fails_says_why_and_what_to_try",
    "test_a_streamed_answer_comes_through_the_tunnel",
    "test_an_unreachable_pod_says_since_when_and_what_is_kept",
    "test_connections_that_are_lost_are_made_anew",
    "test_ctrl_c_leaves_what_was_asked_for_and_says_how_to_look_again",
    "test_first_contact_shows_the_fingerprint_and_trusts_nobody",
    "test_the_output_of_a_workstream_is_read_where_it_ran",
    "test_the_terminal_is_put_back_when_the_connection_is_lost",
    "working",
]
