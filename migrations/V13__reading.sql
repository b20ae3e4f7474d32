-- Reading one message, for the mail functions' role.
set local lock_timeout = '5s';
set local role email_service_owner;

-- A message of the user's, as list_messages has it.
create function get_message(p_tenant_id uuid, p_user_id uuid, p_id uuid)
returns setof email_messages
language plpgsql rows 1
as $$
declare
    v_message email_messages;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    select m.* into v_message
    from email_messages m join email_accounts a on a.id = m.account_id
    where m.id = p_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id
        -- Mail of a deleted account is here until it is purged.
        and a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled;
    if not found then
        return;
    end if;
    v_message.folder_id := coalesce((
        select l.folder_id from email_labels l join email_folders f on f.id = l.folder_id
        where l.message_id = v_message.id and l.tenant_id = p_tenant_id and l.user_id = p_user_id
            and f.tenant_id = p_tenant_id and f.user_id = p_user_id
        order by coalesce(array_position('{inbox,sent,drafts}'::text[], f.role), 4), l.folder_id
        limit 1
    ), v_message.folder_id);
    return next v_message;
end
$$;

-- What an answer refers to. Only of messages that were opened: few are answered, and of many it is longer than all else.
alter table email_messages add column reference_ids text[];
comment on column email_messages.reference_ids is 'The Message-IDs of its References, the oldest first; null where there are none, and before it was opened.';

-- Takes note of what only the whole message tells: its first words, whether it has attachments, and its thread.
create function note_opened(
    p_tenant_id uuid, p_user_id uuid, p_id uuid, p_preview text, p_has_attachments boolean, p_reference_ids text[]
)
returns void
language plpgsql
as $$
declare
    v_number bigint;
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    if exists (
        select from email_messages m
        where m.id = p_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id
            and (m.preview, m.has_attachments) is distinct from (p_preview, p_has_attachments)
    ) then
        -- Before the message, as whoever changes many: two who lock both in another order would wait for each other.
        v_number := next_numbers(p_tenant_id, p_user_id, 1);
    end if;
    update email_messages m
    set preview = p_preview, has_attachments = p_has_attachments, reference_ids = p_reference_ids,
        changed_number = coalesce(v_number, m.changed_number)
    where m.id = p_id and m.tenant_id = p_tenant_id and m.user_id = p_user_id
        and (m.preview, m.has_attachments, m.reference_ids)
            is distinct from (p_preview, p_has_attachments, p_reference_ids);
end
$$;

reset role;
