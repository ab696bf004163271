-- grain: one row per finish reason; (none) is where no reasoning was written
-- reads: reasoning, runs
-- params: date
-- How do the reasonings end? By the marker, by the end of the text, or cut off at their length.
WITH users AS (
    SELECT
        coalesce(reasoning.finish_reason, '(none)') AS finish_reason,
        reasoning.reasoning_tokens,
        CASE WHEN reasoning.status = 'carried' THEN 1 ELSE 0 END AS is_carried
    FROM reasoning
    INNER JOIN runs
        ON
            reasoning.date = runs.date
            AND reasoning.run_id = runs.run_id
    WHERE reasoning.date = cast(:date AS DATE)
)

SELECT
    finish_reason,
    count(*) AS num_users,
    cast(count(*) AS DOUBLE) / sum(count(*)) OVER () AS share,
    cast(sum(is_carried) AS BIGINT) AS num_carried,
    cast(avg(reasoning_tokens) AS DOUBLE) AS mean_tokens
FROM users
GROUP BY finish_reason
ORDER BY num_users DESC, finish_reason ASC;
