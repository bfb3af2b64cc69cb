<?php
// A small site: a page with a style sheet, an image made here, a form, a cookie, and a script that fetches and chats.
session_save_path(__DIR__);
session_start();
$_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
switch ($_GET['part'] ?? '') {
    case 'style':
        header('Content-Type: text/css');
        echo 'body { font-family: sans-serif; background: rgb(240, 248, 255); } #box { width: 120px; height: 40px; background: rgb(0, 128, 0); }';
        exit;
    case 'image':
        header('Content-Type: image/svg+xml');
        echo '<svg xmlns="http://www.w3.org/2000/svg" width="80" height="40"><rect width="80" height="40" fill="navy"/></svg>';
        exit;
    case 'json':
        header('Content-Type: application/json');
        echo json_encode(['posted' => $_POST['name'] ?? null, 'file' => strlen(file_get_contents($_FILES['file']['tmp_name'] ?? '/dev/null'))]);
        exit;
}
?>
<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>A site of PHP</title><link rel="stylesheet" href="?part=style"></head>
<body><h1>Posts</h1>
<?php for ($i = 1; $i <= 200; $i++): ?><article><h2>Post <?= $i ?></h2><p><?= htmlspecialchars(str_repeat("text & more <$i> ", 20)) ?></p></article>
<?php endfor ?>
<div id="box"></div><img id="image" src="?part=image" alt=""><p id="visits"><?= $_SESSION['visits'] ?></p>
<pre id="out">waiting</pre>
<script>
async function run() {
    const form = new FormData();
    form.append('name', 'Ann');
    form.append('file', new Blob(['x'.repeat(300000)]), 'a.txt');
    const answer = await (await fetch('?part=json', { method: 'POST', body: form })).json();
    const chat = await new Promise((done, failed) => {
        const socket = new WebSocket(`ws://${location.host}/chat`);
        socket.onerror = () => failed('no chat');
        socket.onopen = () => socket.send('hello');
        socket.onmessage = (message) => { done(message.data); socket.close(); };
    });
    const image = document.getElementById('image');
    await image.decode();
    const box = getComputedStyle(document.getElementById('box')).backgroundColor;
    const posts = document.querySelectorAll('article').length;
    const text = document.body.textContent.includes('text & more <200>');
    return JSON.stringify({ ...answer, chat, box, posts, text, width: image.naturalWidth });
}
// What the browser made of the page goes to the server's log.
run().catch((error) => 'failed: ' + error).then((result) => {
    document.getElementById('out').textContent = result;
    return fetch('/report?' + encodeURIComponent(result));
});
</script></body></html>
