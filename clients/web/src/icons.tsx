// Drawn here, for the page asks nobody for anything.

const PATHS = {
  menu: "M4 6h16M4 12h16M4 18h16",
  back: "M15 5l-7 7 7 7",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l4 4",
  write: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  inbox: "M4 13l3-8h10l3 8v6H4zM4 13h5l1 3h4l1-3h5",
  sent: "M21 3L10 14M21 3l-7 18-4-7-7-4z",
  drafts: "M6 3h9l4 4v14H6zM14 3v5h5M9 13h6M9 17h6",
  trash: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13",
  junk: "M12 3l9 16H3zM12 9v5M12 16.5v.5",
  archive: "M4 4h16v5H4zM5.5 9v11h13V9M10 13h4",
  all: "M4 6h16v12H4zM4 7l8 6 8-6",
  folder: "M3 6h7l2 2h9v11H3z",
  outbox: "M12 15V4M7.5 8.5L12 4l4.5 4.5M4 15v5h16v-5",
  star: "M12 3.5l2.6 5.4 5.9.8-4.3 4.1 1.1 5.9-5.3-2.9-5.3 2.9 1.1-5.9L3.5 9.7l5.9-.8z",
  reply: "M10 6L4 12l6 6M4 12h10a6 6 0 0 1 6 6",
  replyAll: "M8 6l-6 6 6 6M13 6l-6 6 6 6M7 12h8a6 6 0 0 1 6 6",
  forward: "M14 6l6 6-6 6M20 12H10a6 6 0 0 0-6 6",
  unread: "M4 6h16v12H4zM4 7l8 6 8-6",
  clip: "M20 11l-8.5 8.5a5 5 0 0 1-7-7L13 4a3.5 3.5 0 0 1 5 5l-8.5 8.5a2 2 0 0 1-3-3L14 7",
  theme: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  help: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM9.5 9.5a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .8-1 1.7M12 16.5v.5",
  close: "M6 6l12 12M18 6L6 18",
  plus: "M12 5v14M5 12h14",
  refresh: "M20 11a8 8 0 0 0-14.5-4L3 9.5M3 4v5.5h5.5M4 13a8 8 0 0 0 14.5 4l2.5-2.5M21 20v-5.5h-5.5",
  person: "M12 4a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM4 20c1-4 4-6 8-6s7 2 8 6",
};

export type IconName = keyof typeof PATHS;

export function Icon({ name, filled = false }: { name: IconName; filled?: boolean }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" fill={filled ? "currentColor" : "none"}>
      <path d={PATHS[name]} />
    </svg>
  );
}

interface IconButtonProps {
  name: IconName;
  label: string;
  onClick: () => void;
  filled?: boolean;
  pressed?: boolean;
  disabled?: boolean;
  keys?: string;
}

/** A button that shows an icon and says its name. */
export function IconButton({ name, label, onClick, filled = false, pressed, disabled, keys }: IconButtonProps) {
  return (
    <button
      type="button" class="icon-button" aria-label={label} title={keys ? `${label} (${keys})` : label} aria-pressed={pressed}
      aria-keyshortcuts={keys} disabled={disabled} onClick={onClick}
    >
      <Icon name={name} filled={filled} />
    </button>
  );
}
