-- Returns whether the user exists and may sign in. If true, insert.sql should have inserted a
-- session.
SELECT EXISTS (
    SELECT
    FROM :from
    WHERE :key :equals :user_id
      AND CASE WHEN :key :equals :user_id THEN (:condition) END
      :preconditions
)
