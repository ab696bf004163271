-- No history runs beyond its target: its last event is not later, and is not the target itself.
-- Where histories run from old to new (history_oldest_first), the last event stands for all.
-- grain: one row per sequence that breaks this
-- reads: sequences
-- params: none
WITH last_events AS (
    SELECT
        sequence_id,
        user_id,
        target_item_index,
        target_rating,
        target_time,
        try_element_at(history_item_index, -1) AS item_index,
        try_element_at(history_rating, -1) AS rating,
        try_element_at(history_time, -1) AS event_time
    FROM sequences
)

SELECT
    sequence_id,
    user_id,
    event_time,
    target_time
FROM last_events
WHERE
    event_time > target_time
    OR (
        event_time = target_time
        AND item_index = target_item_index
        AND rating IS NOT DISTINCT FROM target_rating
    )
