-- What jobs need beside what V7 has: a worker that gives an account up for an hour, and the purge of what deleted accounts
-- and destroyed things leave behind.
set local lock_timeout = '5s';
set local role email_service_owner;

-- Notes that the service could not synchronise an account, by its own fault, and when it tries again.
create function give_up_sync(p_tenant_id uuid, p_user_id uuid, p_id uuid, p_pause bigint, p_message text)
returns void
language plpgsql
as $$
declare
    v_now constant bigint := epoch_ms();
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    update email_accounts a
    set rung_at = null, sync_requested_at = null, sync_started_at = null, leased_until = null,
        -- Should the one that failed be at work still, it writes nothing any more.
        lease_token = a.lease_token + 1,
        next_sync_at = v_now + p_pause, last_error_code = 'unavailable', last_error_message = p_message,
        last_error_service = a.protocol, last_error_at = v_now
    where a.id = p_id and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
end
$$;

alter table email_accounts add column mail_purged_at bigint;
comment on column email_accounts.mail_purged_at is 'When the last of what a deleted account had was purged. Its index is built by migrate.';
-- What is forgotten first.
create index email_destroyed_age_idx on email_destroyed (destroyed_at);

grant select (tenant_id, user_id, mail_purged_at), update (mail_purged_at) on email_accounts to email_service_janitor;
grant select (id, account_id), delete on email_folders to email_service_janitor;
grant select (folder_id, message_id), delete on email_labels to email_service_janitor;
grant select (id, folder_id), delete on email_messages to email_service_janitor;
grant select (tenant_id, user_id, number, type, account_id, destroyed_at), delete on email_destroyed
    to email_service_janitor;
grant select (tenant_id, user_id, forgotten), update (forgotten) on email_change_numbers to email_service_janitor;
create policy email_folders_janitor on email_folders to email_service_janitor using (true);
create policy email_labels_janitor on email_labels to email_service_janitor using (true);
create policy email_messages_janitor on email_messages to email_service_janitor using (true);
create policy email_destroyed_janitor on email_destroyed to email_service_janitor using (true);
create policy email_change_numbers_janitor on email_change_numbers to email_service_janitor using (true) with check (true);

-- Deletes at most `p_limit` rows of deleted accounts' mail and of what was destroyed 30 days ago, of all tenants, and returns
-- how many: the rows of messages with their labels, of folders, those of destroyed things, and the accounts that it has done with. As long
-- as they are `p_limit` in all there may be more. Nobody writes mail of a deleted account: whoever does holds its row until
-- he commits, and it is looked at anew each time.
create function purge_mail(p_limit integer)
returns table (messages integer, folders integer, destroyed integer, accounts integer)
language plpgsql security definer rows 1
set search_path = ''
as $$
declare
    c_remembered constant bigint := 30 * 24 * 60 * 60 * 1000::bigint;
    v_account record;
    v_folder uuid;
    v_left integer := p_limit;
    v_count integer;
begin
    messages := 0;
    folders := 0;
    destroyed := 0;
    accounts := 0;
    for v_account in
        select a.id, a.tenant_id, a.user_id from public.email_accounts a
        where not a.is_enabled and a.mail_purged_at is null
        order by a.updated_at
        limit p_limit
        for no key update skip locked
    loop
        -- Messages before their folder, by which they are found.
        loop
            select f.id into v_folder from public.email_folders f where f.account_id = v_account.id limit 1;
            exit when not found;
            delete from public.email_labels l
            where l.folder_id = v_folder and l.message_id in (
                select o.message_id from public.email_labels o where o.folder_id = v_folder limit v_left
            );
            get diagnostics v_count = row_count;
            messages := messages + v_count;
            v_left := v_left - v_count;
            exit when v_left = 0;
            delete from public.email_messages m
            where m.id in (select o.id from public.email_messages o where o.folder_id = v_folder limit v_left);
            get diagnostics v_count = row_count;
            messages := messages + v_count;
            v_left := v_left - v_count;
            exit when v_left = 0;
            delete from public.email_folders f where f.id = v_folder;
            folders := folders + 1;
            v_left := v_left - 1;
            exit when v_left = 0;
        end loop;
        exit when v_left = 0;
        -- That the account is no more says it of all that it had.
        delete from public.email_destroyed d
        where d.tenant_id = v_account.tenant_id and d.user_id = v_account.user_id and d.number in (
            select o.number from public.email_destroyed o
            where o.tenant_id = v_account.tenant_id and o.user_id = v_account.user_id and o.account_id = v_account.id
                and o.type <> 'account'
            limit v_left
        );
        get diagnostics v_count = row_count;
        destroyed := destroyed + v_count;
        v_left := v_left - v_count;
        exit when v_left = 0;
        -- Not yet, where its outbox has more than goes at once (V16).
        update public.email_accounts a set mail_purged_at = public.epoch_ms() where a.id = v_account.id
        returning (a.mail_purged_at is not null)::integer into v_count;
        accounts := accounts + v_count;
        v_left := v_left - 1;
        exit when v_left = 0;
    end loop;

    with old as (
        select d.tenant_id, d.user_id, d.number from public.email_destroyed d
        where d.destroyed_at < (select public.epoch_ms()) - c_remembered
        order by d.destroyed_at
        limit v_left
    ),
    forgotten as (
        delete from public.email_destroyed d using old
        where d.tenant_id = old.tenant_id and d.user_id = old.user_id and d.number = old.number
        returning d.tenant_id, d.user_id, d.number
    ),
    told as (
        -- Whoever asks from a number below learns that he must ask for all.
        update public.email_change_numbers c set forgotten = greatest(c.forgotten, last.number)
        from (select f.tenant_id, f.user_id, max(f.number) as number from forgotten f group by f.tenant_id, f.user_id) last
        where c.tenant_id = last.tenant_id and c.user_id = last.user_id
    )
    select count(*)::integer into v_count from forgotten;
    destroyed := destroyed + v_count;
    return next;
end
$$;

reset role;
-- As in V2 and V5.
grant email_service_janitor to current_user;
grant create on schema public to email_service_janitor;
alter function purge_mail(integer) owner to email_service_janitor;
revoke execute on function purge_mail(integer) from public;
grant execute on function purge_mail(integer) to email_service_scheduler;

-- As V5 has it, but that an account goes after its mail.
set local role email_service_janitor;
create or replace function purge_accounts(p_before bigint, p_limit integer) returns bigint
language plpgsql security definer
set search_path = ''
as $$
declare
    v_credentials uuid[];
begin
    with purged as (
        delete from public.email_accounts a
        where a.id in (
            select old.id from public.email_accounts old
            where not old.is_enabled and old.updated_at < p_before and old.mail_purged_at is not null
            order by old.updated_at
            limit p_limit
            for update skip locked
        )
        returning a.credential_id
    )
    select array_agg(purged.credential_id) into v_credentials from purged;
    delete from public.email_credentials c where c.id = any (v_credentials);
    return coalesce(cardinality(v_credentials), 0);
end
$$;
grant execute on function purge_accounts(bigint, integer) to email_service_scheduler;
reset role;
revoke create on schema public from email_service_janitor;
revoke email_service_janitor from current_user;
