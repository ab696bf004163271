-- A history has events, runs from the oldest to the newest, and not beyond the end of its date; a
-- user has one history a date.
-- grain: one row per user and date that breaks this, and what it breaks
-- reads: histories
-- params: none
WITH checked AS (
    SELECT
        date,
        user_id,
        CASE
            WHEN
                cardinality(history_time) = 0
                OR cardinality(history_item_index) <> cardinality(history_time)
                OR cardinality(history_rating) <> cardinality(history_time)
                THEN 'lists of different lengths, or none'
            WHEN sort_array(history_time) <> history_time THEN 'not from old to new'
            WHEN
                try_element_at(history_time, -1) >= cast(date + INTERVAL 1 DAY AS TIMESTAMP)
                THEN 'event after the date'
        END AS problem
    FROM histories
),

repeated AS (
    SELECT
        date,
        user_id,
        'more than one history' AS problem
    FROM histories
    GROUP BY date, user_id
    HAVING count(*) > 1
)

SELECT
    date,
    user_id,
    problem
FROM checked
WHERE problem IS NOT null
UNION
SELECT
    date,
    user_id,
    problem
FROM repeated
