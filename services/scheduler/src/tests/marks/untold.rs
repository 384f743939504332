//! A scheduler was killed between a mark and its event: the command comes again, after others were heard.

use super::*;

#[tokio::test]
async fn a_command_that_comes_again_undoes_nothing_that_was_decided_after_it() {
    let place = Place::with_backup().await;
    let repository = &place.world.repository;
    let writer = repository.writer(&instance(), &BranchName::main());
    let now = place.world.clock.now();
    let deletion = Deletion {
        by: DeletedBy::User,
        asked_at: now,
        delete_after: now + DAY,
    };
    let untold = BackupMark {
        deletion: Some(deletion),
        ..BackupMark::default()
    };
    let untold = untold.changed_by(command_id(1));
    let read = writer.mark(id(100)).await.unwrap();
    let _ = writer.put_mark(id(100), &untold, &read).await.unwrap();
    let kept = place.done(2, undelete(id(100), None)).await;
    assert_eq!(kept.mark.deletion, None);
    let again = |number, command| place.deliver(command_id(number), 2, command);
    assert_eq!(again(1, delete(id(100))).await, Outcome::Done);
    assert_eq!(place.mark().await, kept.mark);
    assert!(place.has_place().await);
    // The same of a hold that was released.
    let _ = place.done(3, release_of_an_untold_hold(&place).await).await;
    assert_eq!(again(4, hold(id(100), None)).await, Outcome::Done);
    assert_eq!(place.mark().await.hold, None);
}

/// Holds the backup by command 4, and tells nobody.
async fn release_of_an_untold_hold(place: &Place) -> Command {
    let repository = &place.world.repository;
    let writer = repository.writer(&instance(), &BranchName::main());
    let read = writer.mark(id(100)).await.unwrap();
    let held = BackupMark {
        hold: Some(Hold {
            reason: None,
            since: place.world.clock.now(),
        }),
        ..read.mark.clone()
    };
    let held = held.changed_by(command_id(4));
    let _ = writer.put_mark(id(100), &held, &read).await.unwrap();
    release(id(100))
}

#[test]
fn only_the_last_commands_are_remembered() {
    let marks = (1..=20).map(command_id);
    let mark = marks.fold(BackupMark::default(), BackupMark::changed_by);
    assert_eq!(mark.commands.len(), BackupMark::MOST_COMMANDS);
    assert_eq!(mark.commands.last(), Some(&command_id(20)));
}
