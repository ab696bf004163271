-- No event of a history lies after the end of its date, and a user has one history a date.
-- grain: one row per user and date that breaks this
-- reads: histories
-- params: none
WITH late AS (
    SELECT
        histories.date,
        histories.user_id,
        'event after the date' AS problem
    FROM histories
    WHERE array_max(histories.history_time) >= cast(histories.date + INTERVAL 1 DAY AS TIMESTAMP)
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
FROM late
UNION
SELECT
    date,
    user_id,
    problem
FROM repeated
