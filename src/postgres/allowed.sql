-- Whether insert.sql should have begun a session for this user.
SELECT EXISTS (
    SELECT
    FROM :from
    WHERE :key :equals :user_id
      AND (:condition)
      :demands
)
