-- No event of a history lies after its target.
-- grain: one row per history event that is later than its target
-- reads: sequences
-- params: none
SELECT
    sequences.sequence_id,
    sequences.user_id,
    sequences.target_time,
    event.history_time
FROM sequences,
    LATERAL unnest(sequences.history_time) AS event (history_time)
WHERE event.history_time > sequences.target_time
