-- The control plane: schedules that pause, retention, sweeps, drills, alerts, and what WAL added up to by day.
-- Every index of `backups` serves one shape of a list, in the order of the list, so that a page costs a page.

ALTER TABLE instances ADD COLUMN pool TEXT;
ALTER TABLE instances ADD COLUMN drills TEXT;

ALTER TABLE schedules ADD COLUMN wal TEXT;
ALTER TABLE schedules ADD COLUMN paused BIGINT NOT NULL DEFAULT 0;

ALTER TABLE backups ADD COLUMN wal_until BIGINT;
ALTER TABLE backups ADD COLUMN own TEXT;
ALTER TABLE backups ADD COLUMN mark TEXT;
ALTER TABLE backups ADD COLUMN marked_at BIGINT;
ALTER TABLE backups ADD COLUMN deleted_at BIGINT;
ALTER TABLE backups ADD COLUMN verified_at BIGINT;
ALTER TABLE backups ADD COLUMN sound BIGINT;
ALTER TABLE backups ADD COLUMN folded_name TEXT NOT NULL DEFAULT '';
ALTER TABLE backups ADD COLUMN listed_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE backups ADD COLUMN hidden BIGINT NOT NULL DEFAULT 0;

UPDATE backups SET listed_at = COALESCE(requested_at, started_at, 0), folded_name = LOWER(name);

DROP INDEX backups_by_time;
CREATE INDEX backups_of_instance ON backups (instance, hidden, listed_at, id);
CREATE INDEX backups_of_branch ON backups (instance, branch, hidden, listed_at, id);
CREATE INDEX backups_of_all ON backups (hidden, listed_at, id);
CREATE INDEX backups_of_schedule ON backups (instance, schedule_id, hidden, listed_at, id)
    WHERE schedule_id IS NOT NULL;
CREATE INDEX backups_in_state ON backups (instance, status, listed_at);
CREATE INDEX backups_unusual ON backups (status, listed_at) WHERE status <> 'completed';
CREATE INDEX backups_gone ON backups (deleted_at) WHERE deleted_at IS NOT NULL;

-- What was archived, in the order of the WAL; one index is enough.
CREATE TABLE wal_files (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    timeline BIGINT NOT NULL,
    start_lsn BIGINT NOT NULL,
    kind TEXT NOT NULL,
    segment TEXT NOT NULL,
    end_lsn BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    archived_at BIGINT NOT NULL,
    PRIMARY KEY (instance, branch, timeline, start_lsn, kind)
);

INSERT INTO wal_files (instance, branch, timeline, start_lsn, kind, segment, end_lsn, stored_bytes, archived_at)
    SELECT instance, branch, timeline, start_lsn, kind, segment, end_lsn, stored_bytes, archived_at
    FROM wal_segments;

DROP TABLE wal_segments;

-- What the files of a branch add up to, so that nobody has to add them up.
CREATE TABLE archives (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    segments BIGINT NOT NULL,
    pruned_at BIGINT,
    PRIMARY KEY (instance, branch)
);

INSERT INTO archives (instance, branch, stored_bytes, segments)
    SELECT instance, branch, CAST(SUM(stored_bytes) AS BIGINT), SUM(CASE WHEN kind = 'segment' THEN 1 ELSE 0 END)
    FROM wal_files GROUP BY instance, branch;

CREATE TABLE wal_days (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    day BIGINT NOT NULL,
    added_bytes BIGINT NOT NULL,
    pruned_bytes BIGINT NOT NULL,
    PRIMARY KEY (instance, branch, day)
);

CREATE INDEX wal_days_by_day ON wal_days (day);

INSERT INTO wal_days (instance, branch, day, added_bytes, pruned_bytes)
    SELECT instance, branch, archived_at / 86400000000 * 86400000000, CAST(SUM(stored_bytes) AS BIGINT), 0
    FROM wal_files WHERE kind <> 'history' GROUP BY instance, branch, archived_at / 86400000000 * 86400000000;

-- Stretches that were let go. They touch no other of the same timeline: those are one.
CREATE TABLE wal_prunes (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    timeline BIGINT NOT NULL,
    from_lsn BIGINT NOT NULL,
    to_lsn BIGINT NOT NULL,
    pruned_at BIGINT NOT NULL,
    PRIMARY KEY (instance, branch, timeline, from_lsn)
);

CREATE TABLE sweeps (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    id TEXT NOT NULL,
    asked_at BIGINT,
    histories TEXT NOT NULL,
    objects BIGINT,
    bytes BIGINT,
    swept_at BIGINT,
    PRIMARY KEY (instance, branch, id)
);

CREATE INDEX sweeps_by_end ON sweeps (swept_at);

CREATE TABLE drills (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    id TEXT NOT NULL,
    status TEXT NOT NULL,
    triggered_by TEXT,
    target BIGINT,
    backup_id TEXT,
    last_commit_at BIGINT,
    checks TEXT NOT NULL,
    restore_ms BIGINT,
    duration_ms BIGINT,
    failed_step TEXT,
    error TEXT,
    hint TEXT,
    requested_at BIGINT,
    ended_at BIGINT,
    listed_at BIGINT NOT NULL,
    PRIMARY KEY (instance, branch, id)
);

CREATE INDEX drills_by_id ON drills (id);
CREATE INDEX drills_of_instance ON drills (instance, listed_at);
CREATE INDEX drills_of_all ON drills (listed_at);
CREATE INDEX drills_proven ON drills (instance, ended_at) WHERE status = 'completed';

CREATE TABLE alerts (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    rule TEXT NOT NULL,
    since BIGINT NOT NULL,
    severity TEXT NOT NULL,
    message TEXT NOT NULL,
    hint TEXT NOT NULL,
    resolved_at BIGINT,
    PRIMARY KEY (instance, branch, rule, since)
);

CREATE INDEX alerts_standing ON alerts (instance, since) WHERE resolved_at IS NULL;
CREATE INDEX alerts_over ON alerts (resolved_at) WHERE resolved_at IS NOT NULL;

-- Earlier versions passed over these events. A new catalog is built anyway.
UPDATE catalog SET rebuild_wanted = 'repository' WHERE EXISTS (SELECT 1 FROM projections);
