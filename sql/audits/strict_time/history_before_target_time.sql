-- With --strict-time no history has an event at its target's time, or after it.
-- grain: one row per sequence that breaks this
-- reads: sequences
-- params: none
SELECT
    sequence_id,
    user_id,
    target_time
FROM sequences
WHERE array_max(history_time) >= target_time
