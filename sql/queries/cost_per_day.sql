-- grain: one row per published date
-- reads: runs
-- params: first_date=1970-01-01, last_date=9999-12-31
-- What did each day cost? Cost is the time of the devices at the price of the run, and nothing is
-- known of it where no price was given. Carried users took no device time.
SELECT
    date,
    model,
    num_users,
    num_errors,
    num_carried,
    wall_seconds,
    device_seconds,
    price_per_hour,
    device_seconds / 3600 * price_per_hour AS cost,
    cost_per_1000_users,
    users_per_second
FROM runs
WHERE date BETWEEN cast(:first_date AS DATE) AND cast(:last_date AS DATE)
ORDER BY date;
