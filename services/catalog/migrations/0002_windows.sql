-- What of a branch can be restored, and what its slot means for its source's disk: each as announced last.

CREATE TABLE windows (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    restorable TEXT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (instance, branch)
);

CREATE TABLE slot_risks (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    level TEXT NOT NULL,
    held_bytes BIGINT NOT NULL,
    limit_bytes BIGINT,
    message TEXT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (instance, branch)
);
