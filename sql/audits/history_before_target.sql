-- A history has events, runs from the oldest to the newest, and not beyond its target: its last
-- event is not later, and is not the target itself. One reading of the lists for all of it.
-- grain: one row per sequence that breaks this, and the first thing that it breaks
-- reads: sequences
-- params: none
WITH checked AS (
    SELECT
        sequence_id,
        user_id,
        target_time,
        try_element_at(history_time, -1) AS event_time,
        CASE
            WHEN
                cardinality(history_time) = 0
                OR cardinality(history_item_index) <> cardinality(history_time)
                OR cardinality(history_rating) <> cardinality(history_time)
                THEN 'lists of different lengths, or none'
            WHEN sort_array(history_time) <> history_time THEN 'not from old to new'
            WHEN try_element_at(history_time, -1) > target_time THEN 'an event after the target'
            WHEN
                try_element_at(history_time, -1) = target_time
                AND try_element_at(history_item_index, -1) = target_item_index
                AND try_element_at(history_rating, -1) IS NOT DISTINCT FROM target_rating
                THEN 'the target itself'
        END AS problem
    FROM sequences
)

SELECT
    sequence_id,
    user_id,
    event_time,
    target_time,
    problem
FROM checked
WHERE problem IS NOT null
