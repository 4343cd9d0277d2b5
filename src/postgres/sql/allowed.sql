-- Returns whether FROM finds a user for the session columns of a sign-in, and the user may sign in.
-- See user_found.sql.
SELECT EXISTS (
    SELECT
    FROM :new_session LATERAL (
        SELECT
        FROM :from
        WHERE :key :equals :user_id
          AND CASE WHEN :key :equals :user_id THEN (:condition) END
          :preconditions
    ) AS allowed
)
