-- A page costs a page: what backups add up to is kept and not added up, and the keys of a page, also of one far down the
-- list or of names that are looked for, are read along an index alone.

CREATE TABLE backup_totals (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    backups BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    PRIMARY KEY (instance, branch)
);

INSERT INTO backup_totals (instance, branch, backups, stored_bytes)
    SELECT instance, branch, COUNT(*), CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT)
    FROM backups WHERE status = 'completed' GROUP BY instance, branch;

CREATE INDEX backups_completed ON backups (instance, backed_up_at) WHERE status = 'completed';

UPDATE backups SET folded_name = SUBSTR(folded_name, 1, 256) WHERE LENGTH(folded_name) > 256;

DROP INDEX backups_of_instance;
DROP INDEX backups_of_branch;
DROP INDEX backups_of_all;
CREATE INDEX backups_of_instance ON backups (instance, hidden, listed_at, id, branch, folded_name);
CREATE INDEX backups_of_branch ON backups (instance, branch, hidden, listed_at, id, folded_name);
CREATE INDEX backups_of_all ON backups (hidden, listed_at, id, instance, branch, folded_name);
