-- Returns whether FROM finds a user by the session columns of a session, but does not find that
-- user if the session columns are null.
SELECT EXISTS (
    SELECT
    FROM :some_session LATERAL (
        SELECT :key FROM :from WHERE true :of_session LIMIT 1
    ) AS chosen (chosen_user_id)
    WHERE NOT EXISTS (
        SELECT
        FROM :new_session LATERAL (SELECT FROM :from WHERE :key :equals chosen.chosen_user_id) AS found
    )
)
