//! The list of all contract tests, and the macro that makes them tests of a backend.

/// Makes every contract test a test of the given backend (a value that implements `Backend`), in
/// a module of the given name.
macro_rules! for_backend {
    ($module:ident, $backend:expr) => {
        mod $module {
            for_backend!(@tests $backend;
                publish::a_stored_run_is_delivered_with_its_bytes
                publish::a_message_id_is_accepted_once
                publish::an_acknowledged_id_is_still_a_duplicate
                publish::runs_of_other_jobs_and_queues_have_slots_of_their_own
                publish::an_occupied_slot_names_its_holder
                publish::a_refused_id_is_not_remembered
                publish::a_slot_is_held_while_leased_and_freed_by_ack
                publish::a_slot_is_held_while_put_off
                publish::run_slots_let_runs_overlap
                publish::many_at_once_are_all_stored
                publish::in_a_burst_each_run_fares_as_by_itself
                pulling::order_is_that_of_publishing
                pulling::shares_are_honoured_when_all_queues_are_full
                pulling::what_a_queue_does_not_use_goes_to_the_next
                pulling::preferred_queues_come_first
                pulling::never_more_than_max_in_total
                pulling::waits_and_wakes_on_publish
                pulling::an_empty_wait_ends_on_time
                pulling::cancelling_loses_no_run
                pulling::two_pullers_never_get_the_same_run
                leases::renewing_keeps_a_run
                leases::a_lost_lease_delivers_again
                leases::a_late_holder_cannot_take_the_run_from_the_new_one
                delivery::ack_removes_the_run
                delivery::ack_can_be_repeated
                delivery::release_without_delay_delivers_at_once
                delivery::release_with_delay_delivers_not_before
                delivery::a_run_put_off_does_not_hold_up_others
                stored::pending_lists_what_is_stored
                stored::occupant_is_found_by_slot
                stored::a_removed_run_is_not_delivered
                stored::queues_tell_their_depth
                stored::dead_letters_are_kept_newest_first
                stored::stored_runs_survive_reopening
                stored::values_and_logs_survive_reopening
                values::keys_are_put_read_and_deleted
                values::compare_and_set_creates_once
                values::compare_and_set_needs_the_current_revision
                values::a_deleted_key_can_be_created_again
                values::what_was_removed_is_created_only_where_it_is_forgotten
                values::of_many_writers_one_wins_each_round
                values::latest_is_what_changed_last_under_the_prefix
                values::list_sees_only_its_prefix
                values::buckets_are_apart
                watching::a_watch_starts_with_what_is_there
                watching::a_watch_sees_changes_and_deletes
                watching::a_watch_is_limited_to_its_prefix
                watching::a_slow_watcher_sees_the_last_value
                watching::no_change_is_lost_between_start_and_stream
                logs::chunks_come_back_in_order
                logs::logs_of_runs_are_apart
                logs::reading_goes_on_after_a_sequence
                logs::trimming_drops_the_oldest
            );
        }
    };
    (@tests $backend:expr; $($topic:ident :: $name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let test = super::$topic::$name(&$backend);
                tokio::time::timeout(super::harness::TEST_LIMIT, test)
                    .await
                    .expect("the test took too long");
            }
        )*
    };
}
