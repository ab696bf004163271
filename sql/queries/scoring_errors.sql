-- grain: one row per user of the published run who could not be scored
-- reads: reasoning, runs
-- params: date
-- Who has no list, and why?
SELECT
    reasoning.user_id,
    reasoning.error,
    reasoning.prompt_tokens
FROM reasoning
INNER JOIN runs
    ON
        reasoning.date = runs.date
        AND reasoning.run_id = runs.run_id
WHERE
    reasoning.date = cast(:date AS DATE)
    AND reasoning.status = 'error'
ORDER BY reasoning.user_id;
