-- Whether the user of session s meets the application's condition. The condition is evaluated for
-- this user only: see find.sql.
EXISTS (
    SELECT
    FROM :this_session LATERAL (
        SELECT FROM :from WHERE :key :equals s.user_id AND CASE WHEN :key :equals s.user_id THEN (:condition) END
    ) AS allowed
)
