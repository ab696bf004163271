-- Histories and the histories of sequences run from the oldest event to the newest.
-- grain: one row per sequence whose history is out of order
-- reads: sequences
-- params: none
SELECT
    sequence_id,
    user_id,
    history_time
FROM sequences
WHERE sort_array(history_time) <> history_time
